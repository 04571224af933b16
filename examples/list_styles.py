"""The styles of the registry, and the prompt that each would send. Nothing is generated."""

from asyncgen import StylesRegistry
from asyncgen.styles import compose_prompt


def main() -> None:
    registry = StylesRegistry.load()
    print(f"{registry.source}\n")
    for style in registry.get_all_styles():
        print(f"{style.id:>3}  {style.title:<20} {style.lora_to_load or 'no LoRA'}")
        print(f"     {compose_prompt(style, 'a fox at a ferry')}")


if __name__ == "__main__":
    main()
