"""Images from a web app: POST /images {"prompt": "…", "style_id": "1"} answers with the path of a file.

One generator serves all requests for as long as the app runs: they share its limits, its connections and its ledger.
"""

from collections.abc import AsyncIterator

from aiohttp import web

from asyncgen import AsyncgenError, ImageGenerator, InputError, load_settings

GENERATOR = web.AppKey("generator", ImageGenerator)


async def open_generator(app: web.Application) -> AsyncIterator[None]:
    settings = load_settings()
    async with ImageGenerator(settings, sandbox=settings.api_key is None) as app[GENERATOR]:
        yield


async def make_image(request: web.Request) -> web.Response:
    try:
        wish = await request.json()
        result = await request.app[GENERATOR].generate_image(wish["prompt"], wish.get("style_id"))
    except (InputError, KeyError, TypeError, ValueError) as error:
        return web.json_response({"error": str(error)}, status=400)
    except AsyncgenError as error:
        return web.json_response({"error": str(error)}, status=502)
    return web.json_response({"request_id": result.request_id, "path": str(result.saved_path)})


def build_app() -> web.Application:
    app = web.Application()
    app.cleanup_ctx.append(open_generator)
    app.router.add_post("/images", make_image)
    return app


if __name__ == "__main__":
    web.run_app(build_app(), host="127.0.0.1", port=8080)
