"""The disk: what pictures are called, whether they are whole, and how they get there."""
