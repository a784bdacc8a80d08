"""What running takes besides the method: devices, memory, progress, threads."""
