"""An honest benchmark: the product's own worker processes against what else one would write, on the same servers."""
