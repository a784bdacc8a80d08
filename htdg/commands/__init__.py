"""The commands, a file each. A file is imported only when its command is needed."""
