"""The same model written a second time, in plain torch, to hold the first one to account."""
