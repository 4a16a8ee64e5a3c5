"""The page: what a browser shows of a stream, computed by a server or in the browser itself."""
