"""The other ways to do it, one a file, each as short as its authors write it.

Each renders `prompts`, a mapping from the picture's path to its prompt, with at most `concurrency` at a time; a picture
that cannot be had is reported and left out. All read a task by itself and know nothing of batch reads.
"""
