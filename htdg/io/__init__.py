"""Images, models and checkpoints: everything that is read from or written to a disk."""
