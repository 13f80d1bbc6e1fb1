"""What tests share: images, flows, a Hub in memory, a pretended GPU, and scripts to run."""
