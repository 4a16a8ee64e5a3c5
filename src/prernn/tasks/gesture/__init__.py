"""Hand gestures, found online by CTC."""
