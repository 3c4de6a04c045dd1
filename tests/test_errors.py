from lightpose.errors import in_short


def test_what_an_exception_says_is_one_line_of_whole_words() -> None:
    keys = [f"net.backbone.stage{number}.weight" for number in range(100)]
    said = in_short(RuntimeError("Missing keys:\n\t" + ",\n ".join(keys)))
    *whole, last = said.removeprefix("Missing keys: ").split(", ")
    assert len(said) <= 300 and len(whole) > 5 and whole == keys[: len(whole)] and last == "..."


def test_an_exception_that_says_nothing_gives_its_kind() -> None:
    assert in_short(KeyboardInterrupt()) == "KeyboardInterrupt"
