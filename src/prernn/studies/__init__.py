"""Networks compared, asked early, quantized and looked into: whole experiments behind one command each."""
