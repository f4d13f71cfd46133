"""What a run needs and how long it takes, on machines that are not here."""
