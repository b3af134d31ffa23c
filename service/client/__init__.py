"""A running service from Python: image files, bytes or pixels in, typed predictions out; waiting or with asyncio.

    with Client("http://127.0.0.1:8000") as convoy:
        print(convoy.predict("photo.jpg").label)

A request that finds the service busy, or its connection broken, is sent again until its time is up: a prediction
changes nothing, so asking twice does no harm. Needs the extra `client`.
"""

from service.client.answers import Answer, Model, Refused, Unreachable
from service.client.clients import AsyncClient, Client
from service.client.requests import Image

__all__ = ["Answer", "AsyncClient", "Client", "Image", "Model", "Refused", "Unreachable"]
