"""Other projects' files: their maps, labels and networks read and written, each format in a module of its own."""
