"""Hand gestures, found online with CTC."""
