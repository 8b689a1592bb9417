"""`krea-async doctor`: whatever would keep a run from going well, found before it costs anything."""
