"""One image, and where it went. Without RUNPOD_API_KEY it is made by the embedded sandbox, for nothing."""

import asyncgen


def main() -> None:
    on_sandbox = asyncgen.load_settings().api_key is None
    try:
        result = asyncgen.run_image(
            "a detective in a long coat lights a match in the rain",
            style_id="1",
            width=640,
            height=384,
            sandbox=on_sandbox,
        )
    except asyncgen.GenerationError as error:
        raise SystemExit(f"not made: {error.failure}") from error
    print(f"{result.request_id} with seed {result.seed}: {result.saved_path}")


if __name__ == "__main__":
    main()
