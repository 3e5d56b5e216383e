"""The training loop of the demo, as short as possible. Runs as it is, without an account, a network or a model."""

import tellurio_sync as te
from tellurio_sync.examples.data import load_mails
from tellurio_sync.examples.stand_in import stand_in

mails = load_mails()[:40]
batches = [mails[start : start + 10] for start in range(0, len(mails), 10)]

te.login(mode="local")
with te.init(project_display_name="Training loop") as run:
    lm = te.CallableModel(stand_in)  # or te.OpenAI(base_url=..., api_key=...)
    te.set_backward_model_client(lm)
    prompt = te.Parameter(
        "Tell the sentiment. When in doubt, answer neutral.", role="system prompt", requires_grad=True
    )
    optimizer = te.TGD([prompt], model_client=lm)
    chat = [
        {"role": "system", "content": [prompt]},
        {"role": "user", "content": [te.Variable("{message}", role="message")]},
    ]
    # The data set is sent to the server once, in one or two round trips, not with each batch of each epoch.
    texts = te.variables([[mail.text for mail in batch] for batch in batches], role="messages")
    labels = te.variables([[mail.sentiment for mail in batch] for batch in batches], role="sentiments")
    for epoch in range(3):
        for text, label in zip(texts, labels):
            answer = te.functional.chat_completion(lm, chat, inputs={"message": text})
            score, explanation = te.functional.exact_match_evaluator(answer, label)
            explanation.backward()
            optimizer.step()
            optimizer.clear_grad()
            run.log("right", score.data)
            print(f"epoch {epoch + 1}: {score.data} of {len(text.data)} right")
