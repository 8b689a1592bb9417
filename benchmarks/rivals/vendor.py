"""The vendor's published Python flow: requests, a thread for each picture, a look every 3 s, no retries."""

import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests

POLL_EVERY_S = 3
TIMEOUT_S = 60


def generate(url: str, key: str, prompt: str, path: Path) -> None:
    """One picture, from the prompt to the file."""
    headers = {"Authorization": f"Bearer {key}"}
    body = {"model": "krea-2-turbo", "prompt": prompt}
    reply = requests.post(f"{url}/v1/images/generations", json=body, headers=headers, timeout=TIMEOUT_S)
    reply.raise_for_status()
    task_id = reply.json()["id"]
    while True:
        time.sleep(POLL_EVERY_S)
        reply = requests.get(f"{url}/v1/tasks/{task_id}", headers=headers, timeout=TIMEOUT_S)
        reply.raise_for_status()
        task = reply.json()
        if task["status"] == "completed":
            break
        if task["status"] == "failed":
            raise ValueError(task["error"]["message"])
    image = requests.get(task["results"][0], timeout=TIMEOUT_S)
    image.raise_for_status()
    path.write_bytes(image.content)


def render(url: str, key: str, prompts: Mapping[Path, str], concurrency: int) -> None:
    """Every prompt, `concurrency` threads at a time."""

    def one(path: Path) -> None:
        try:
            generate(url, key, prompts[path], path)
        except (requests.RequestException, ValueError, KeyError) as error:
            print(f"{path.name}: {error}", file=sys.stderr)

    with ThreadPoolExecutor(concurrency) as threads:
        list(threads.map(one, prompts))
