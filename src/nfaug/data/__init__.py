"""Images and labels: folders, archives, arrays and named datasets, read in batches."""
