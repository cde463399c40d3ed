"""Where clients run: in this process, or in Ray's workers. Imported only as far as needed."""
