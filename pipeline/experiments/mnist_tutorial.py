"""MNIST as in the tutorial: two convolutions, one hidden layer, Adam, 3000 steps of 50 images.

Expected: 98.3 to 98.5 % on the 10,000 test images (the tutorial reports 98.34 %).
Takes:    two minutes on two cores that compute in bfloat16.
Command:  conveyor run mnist
"""

from pipeline.experiments.config import Dataset, Experiment, Gate, NamedSplits, Network, Serving, Training

EXPERIMENT = Experiment(
    name="mnist",
    dataset=Dataset(
        name="mnist",
        format="idx",
        shape=(28, 28, 1),
        classes=("0", "1", "2", "3", "4", "5", "6", "7", "8", "9"),
        splits=NamedSplits(train="train-*-ubyte", test="t10k-*-ubyte", eval_examples=5_000),
        background="black",
    ),
    network=Network(name="mnist_tutorial", input_scale=1 / 255),
    training=Training(optimizer="adam", learning_rate=1e-4, batch_size=50, steps=3_000),
    gate=Gate(min_accuracy=0.975),
    serving=Serving(model_name="mnist"),
)
