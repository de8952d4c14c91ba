"""Who is let in: names, origins, tokens."""

import socket

import pytest
from fastapi import FastAPI, WebSocket
from fastapi.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from motionstream.server.guard import Access, Guard, new_token

TOKEN = "a-token-of-the-test"


def guarded(access: Access, host: str = "127.0.0.1:8000") -> TestClient:
    app = FastAPI()
    app.add_middleware(Guard, access=access)

    @app.get("/")
    async def page(word: str = "") -> str:
        return f"page {word}"

    @app.get("/health")
    async def health() -> str:
        return "alive"

    @app.post("/change")
    async def change() -> str:
        return "changed"

    @app.websocket("/ws")
    async def talk(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_json("hello")
        await websocket.receive()  # until it goes

    return TestClient(app, base_url=f"http://{host}", headers={"host": host}, follow_redirects=False)


def refuses_socket(client: TestClient, address: str = "/ws", **headers: str) -> bool:
    try:
        with client.websocket_connect(address, headers=headers) as websocket:
            return bool(websocket.receive_json() != "hello")
    except WebSocketDisconnect:
        return True


# ------------------------------------------------------------------------------------------------- host, origin


@pytest.mark.parametrize(
    "host", ["evil.example:8000", "192.168.1.2:8000", "[fe80::1]:8000", "", "127.0.0.1.evil.example"]
)
def test_foreign_names_that_were_made_to_lead_here_are_not_served(host: str) -> None:
    client = guarded(Access())
    assert client.get("/", headers={"host": host}).status_code == 403
    assert refuses_socket(client, host=host)


def test_this_machine_is_served_by_its_names() -> None:
    for host in ("localhost:1", "127.0.0.1", "[::1]:8000", "LOCALHOST"):
        assert guarded(Access()).get("/", headers={"host": host}).status_code == 200, host
    named = guarded(Access(names=("Studio.example.org",)))
    assert named.get("/", headers={"host": "studio.example.org"}).status_code == 200


def test_a_server_for_others_is_called_by_number_or_by_a_name_it_knows() -> None:
    client = guarded(Access("0.0.0.0", TOKEN, ("studio.example.org",)))
    bearer = {"authorization": f"Bearer {TOKEN}"}
    for host in ("192.168.1.2:8000", "[fd00::1]:80", "studio.example.org", socket.gethostname().lower()):
        assert client.get("/", headers={"host": host, **bearer}).status_code == 200, host
    assert client.get("/", headers={"host": "evil.example", **bearer}).status_code == 403


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:9999", "https://127.0.0.1"])
def test_pages_of_other_sites_change_and_hear_nothing(origin: str) -> None:
    client = guarded(Access())
    assert client.post("/change", headers={"origin": origin}).status_code == 403
    assert refuses_socket(client, origin=origin)
    answer = client.get("/", headers={"origin": origin})
    assert "access-control-allow-origin" not in answer.headers  # so that page cannot read it


def test_its_own_page_and_tools_are_let_in() -> None:
    client, own = guarded(Access()), {"origin": "http://127.0.0.1:8000"}
    assert client.post("/change", headers=own).status_code == client.post("/change").status_code == 200
    assert not refuses_socket(client, **own) and not refuses_socket(client)


# -------------------------------------------------------------------------------------------------------- token


def test_without_the_token_nothing_but_health_is_had() -> None:
    client = guarded(Access(token=TOKEN))
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": TOKEN}, {"cookie": "a=b; ;;=c"}):
        assert client.get("/", headers=headers).status_code == 401, headers
        assert client.post("/change", headers=headers).status_code == 401, headers
        assert refuses_socket(client, **headers)
    assert client.get("/?token=wrong").status_code == client.get("/?token=").status_code == 401
    assert refuses_socket(client, "/ws?token=wrong")
    assert client.get("/health").status_code == 200
    shown = client.get("/", headers={"accept": "text/html,application/xml"})
    assert shown.text == "A token is needed; open the whole address that motionstream printed."


def test_the_address_with_the_token_lets_a_browser_in_for_good() -> None:
    client = guarded(Access(token=TOKEN))
    answer = client.get(f"/?token={TOKEN}&word=a%26b")
    assert answer.status_code == 303 and answer.headers["location"] == "/?word=a%26b", "the address keeps no secret"
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=lax" in cookie
    assert client.get(answer.headers["location"]).json() == "page a&b"
    assert client.post("/change").status_code == 200
    assert not refuses_socket(client, cookie=cookie.partition(";")[0])
    elsewhere = guarded(Access(token=new_token()))  # another server at another port of the same host
    assert elsewhere.get("/", headers={"cookie": cookie.partition(";")[0]}).status_code == 401


def test_cookies_of_other_programs_lock_nobody_out() -> None:
    access = Access(token=TOKEN)
    for other in ('theme={"dark": true}', "a b=c", "größe=3", "=nothing", "nothing"):
        client = guarded(access)
        for cookie in (f"{other}; {access.cookie}={TOKEN}", f"{access.cookie}={TOKEN}; {other}"):
            assert client.get("/", headers={"cookie": cookie.encode()}).status_code == 200, cookie


def test_the_redirect_does_not_lead_to_another_host() -> None:
    answer = guarded(Access(token=TOKEN)).get(f"http://127.0.0.1:8000//evil.example/?token={TOKEN}")
    assert answer.headers["location"] == "/evil.example/"


def test_tools_show_the_token_in_a_header_or_an_address() -> None:
    client = guarded(Access(token=TOKEN))
    assert client.post("/change", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
    assert not refuses_socket(client, authorization=f"Bearer {TOKEN}")
    assert not refuses_socket(client, f"/ws?token={TOKEN}")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"host": "0.0.0.0"}, "0.0.0.0 can be reached from other machines; a token is needed"),
        ({"host": "::"}, "a token is needed"),
        ({"host": "studio.example.org"}, "a token is needed"),
        ({"token": "short"}, "the token has 5 characters; give 16 or more"),
        ({"token": ""}, "the token has 0 characters"),
    ],
)
def test_open_servers_and_weak_tokens_are_refused(arguments: dict, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        Access(**arguments)


def test_every_answer_carries_safe_headers() -> None:
    client = guarded(Access(token=TOKEN))
    for answer in (client.get("/"), client.get("/health"), client.get("/", headers={"host": "evil.example"})):
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        assert answer.headers["referrer-policy"] == "no-referrer"
