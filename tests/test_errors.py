from whorl.errors import did_you_mean, shortened


def test_a_long_list_of_options_is_given_in_part():
    said = did_you_mean("fea_1", [f"fea_{number:03d}" for number in range(500)])
    assert "Choose from: fea_000, fea_001, " in said
    assert said.endswith(" and 456 more.")
    assert len(said) < 500
    assert len(did_you_mean("y", ["x" * 3000 + letter for letter in "abcdefghij"])) < 500
    assert did_you_mean("y", []) == " Choose from: ."


def test_values_are_shortened_to_one_line():
    assert shortened("a\n b") == "a b"
    assert shortened("x" * 100, 10) == "xxxxxxxxx…"
    assert shortened(10**5000) == "a number of thousands of digits"
