"""Phonemes in speech: a label at every window of sound, or a sequence of them with CTC."""
