"""CIFAR-10 as in the tutorial: five convolutions on raw pixels, dropout, RMSProp, 10,000 steps of 128 images.

Expected: about 65 % on the 10,000 test images (the tutorial reports 64.2 %).
Takes:    twenty-three minutes on two cores that compute in bfloat16.
Command:  conveyor run cifar10
"""

from pipeline.experiments.config import Dataset, Experiment, Gate, NamedSplits, Network, Serving, Training

EXPERIMENT = Experiment(
    name="cifar10",
    dataset=Dataset(
        name="cifar10",
        format="cifar_binary",
        shape=(32, 32, 3),
        classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        splits=NamedSplits(train="data_batch_*.bin", test="test_batch.bin"),
    ),
    network=Network(name="cifar10_tutorial", input_scale=1.0, dropout=0.2),
    training=Training(optimizer="rmsprop", learning_rate=1e-3, batch_size=128, steps=10_000),
    gate=Gate(min_accuracy=0.60, tolerance=0.02),
    serving=Serving(model_name="cifar10"),
)
