"""Messages over a WebSocket: a client's hello, and the contents of answers."""
