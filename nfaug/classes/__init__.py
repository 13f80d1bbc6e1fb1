"""Class gaussians: densities, streaming statistics and priors."""
