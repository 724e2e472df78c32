"""Low rank: one layer becomes two thinner ones."""
