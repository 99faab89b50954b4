"""What each of `rayduce`'s commands does. Only what a command needs is imported when it runs."""
