"""Where code runs: devices, processes that share a job and their memory, and seeds."""
