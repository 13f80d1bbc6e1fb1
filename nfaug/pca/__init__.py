"""Principal axes of each class in latent space."""
