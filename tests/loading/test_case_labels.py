from __future__ import annotations

from medpretrain3d.loading.case_labels import CaseLabelView


def test_labels_are_known_by_what_they_say_and_not_by_how_the_table_is_written(tmp_path):
    def of(name, *rows):
        (tmp_path / name).write_text("\n".join(["case,label", *rows]) + "\n", encoding="utf-8")
        return CaseLabelView(str(tmp_path / name), is_multi_label=True).fingerprint

    one = of("one.csv", "a,x", "a,y", "b,")
    assert of("other.csv", "b,", "a,y", "a,x") == one
    assert len({one, of("one.csv", "a,x", "b,y"), of("one.csv", "a,x", "a,y"), of("one.csv", "b,x", "b,y", "a,")}) == 4
