"""Where code runs: devices, blocks for a cache, processes and their shared memory, and seeds."""
