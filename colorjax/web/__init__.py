"""The page: colour photographs in a window, before and after, and say what colour a thing is.

`command` reads what is typed, `start` serves until a signal comes, `server` joins addresses to what
is done, `guard` decides who may ask, `session` holds the photographs and colours them, `saving`
writes them, `item` is one of them, `edit` what is asked of its colour, `frame` a film's picture,
`page/` what the browser shows. Extra `web`. `page/example.jpg` is a part of
`examples/buffalo-1908.jpg`.
"""
