# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
custom_imports = dict(imports=['mmrla'], allow_failed_imports=False)

# A detector's backbone with the weights that configs/rla_resnet trains. They were
# pretrained with RLA: units are frozen with their stages, their norms stay in eval.
rla_resnet50 = dict(
    type='RLAResNet',
    freeze_rla=True,
    init_cfg=dict(
        type='Pretrained',
        prefix='backbone.',
        checkpoint='checkpoints/rla-resnet50_4xb64_in1k.pth',
    ),
)
