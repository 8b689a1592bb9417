"""The questions that the benchmarks ask, one a file. Each gets a gateway process and prints its part of the page."""
