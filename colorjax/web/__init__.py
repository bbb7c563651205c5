"""The page: colour photographs in a window, before and after, and say what colour a thing is.

`guard` decides who may ask, `session` holds the photographs and colours them, `server` joins both
to addresses, `page/` is what the browser shows. Extra `web`. `page/example.jpg` is a part of
`examples/buffalo-1908.jpg`.
"""
