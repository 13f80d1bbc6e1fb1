"""Class gaussians: densities, statistics, and the ways to find them."""
