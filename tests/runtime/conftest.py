"""The shop's bench."""

from tests.shop.bench import bench, shop_settings

__all__ = ["bench", "shop_settings"]
