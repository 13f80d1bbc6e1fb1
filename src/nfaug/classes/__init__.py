"""What is fitted to classes: statistics, Gaussians and their fixed point, PCA axes and memory."""
