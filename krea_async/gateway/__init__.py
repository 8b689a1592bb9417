"""The wire: the only place that knows URLs, JSON and aiohttp. Whatever it raises is in the KreaError tree."""
