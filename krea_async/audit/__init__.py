"""An output directory looked at afterwards: whether every picture is there and whole, and what all of it cost."""
