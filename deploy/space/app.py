"""A page for a Hugging Face Space of the kind Gradio: a photo in, tags and a caption out.

The files of this folder are the whole Space. Locally: pip install -r requirements.txt && python app.py
"""

from __future__ import annotations

import gradio as gr

from anytag import AnytagError, Captioner

MOST_TAGS = 50

captioner = Captioner.load()


def look(path: str | None, words: str) -> tuple[dict[str, float], str]:
    """Scores by tag, and a sentence.

    Args:
        path: of the photo as it was sent: any format that anytag reads, HEIC too, which gr.Image turns away.
        words: custom tags with commas between them; "" asks the vocabulary.
    """
    if path is None:
        raise gr.Error("Drop a photo first.")
    tags = [word.strip() for word in words.split(",") if word.strip()]
    if len(tags) > MOST_TAGS:
        raise gr.Error(f"{len(tags)} tags are too many: {MOST_TAGS} at most.")
    try:
        encoded = captioner.tagger.encode(path)
        found = captioner.tagger.score(encoded, tags or None, top_k=MOST_TAGS)
        (caption,) = captioner.write([encoded])
    except AnytagError as error:
        raise gr.Error(str(error).replace(path, "the photo")) from error
    return {tag.name: tag.score for tag in found.shown}, caption.text


page = gr.Interface(
    look,
    [
        gr.File(label="Photo", type="filepath"),
        gr.Textbox(label="Custom tags", placeholder="red car, a dog that sleeps"),
    ],
    [gr.Label(label="Tags", num_top_classes=MOST_TAGS), gr.Textbox(label="Caption")],
    title="anytag",
    description="Tags with scores that mean something, on a CPU. Leave the custom tags empty to ask all.",
    flagging_mode="never",
    analytics_enabled=False,
)

if __name__ == "__main__":
    page.launch(max_file_size="30mb")
