"""Measure every epoch of a training loop, and forecast a longer training.

Run it with `python examples/training_loop.py`; it needs `pip install '.[study]'`. To try it without
a GPU or RAPL, set `JOULELAB_SENSORS=simulated`.
"""

import torch

import joulelab

torch.manual_seed(0)
samples, labels = torch.randn(1024, 64), torch.randint(0, 10, (1024,))
model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

with joulelab.Meter() as meter:
    loop = joulelab.epochs(range(6), meter=meter, quiet=True)
    for epoch in loop:
        for batch in loop.steps(torch.split(torch.arange(1024), 64)):
            loss = torch.nn.functional.cross_entropy(model(samples[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch}: loss {loss.item():.3f}")
    print("all epochs:", loop.energy)
    print("100 epochs:", meter.forecast(100))
