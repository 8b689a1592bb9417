"""Many prompts in, pictures out, and the books of an output directory: `run` is what users get, the rest serves it."""
