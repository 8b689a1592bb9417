"""What commands take: the options that several share, and where an option's value comes from."""
