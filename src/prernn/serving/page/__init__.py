"""The page: what a browser shows of a stream, from a server or all by itself."""
