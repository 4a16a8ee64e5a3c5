"""What goes over a WebSocket: a client's hello, and what is in answers."""
