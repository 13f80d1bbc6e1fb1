"""Images and labels: folders, archives, arrays and named data sets, read in batches."""
