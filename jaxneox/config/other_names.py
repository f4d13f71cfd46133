"""Names that other programs give to what a key sets here, for those who type them from habit.

From transformers' configurations and its Trainer, nanoGPT, Megatron-LM, torchtitan and MaxText.
They are suggested, and not taken: what they mean there may differ in detail.
"""

MEANT: dict[str, str] = {
    other: known
    for known, others in {
        "hidden_size": "d_model dim emb_dim embed_dim hidden_dim n_embd n_embed width",
        "num_layers": "depth n_layer n_layers num_decoder_layers num_hidden_layers",
        "num_attention_heads": "n_head n_heads num_heads num_query_heads",
        "num_kv_heads": "n_kv_heads num_key_value_heads num_query_groups",
        "intermediate_size": "d_ff ffn_hidden_size mlp_dim n_inner",
        "seq_length": (
            "block_size context_size ctx_len max_length max_seq_len max_seq_length "
            "max_target_length seq_len sequence_length"
        ),
        "max_position_embeddings": "max_positions n_ctx n_positions",
        "padded_vocab_size": "n_vocab vocab_size",
        "rotary_emb_base": "rope_base rope_theta rotary_base",
        "rotary_pct": "partial_rotary_factor rotary_fraction rotary_percent",
        "pos_emb": "position_embedding_type position_embeddings",
        "hidden_dropout": "dropout dropout_rate resid_pdrop",
        "attention_dropout": "attn_dropout attn_pdrop",
        "activation": "act_fn hidden_act hidden_activation",
        "norm": "norm_type normalization",
        "lr": "learning_rate peak_lr",
        "min_lr": "lr_min min_learning_rate",
        "lr_decay_style": "lr_schedule lr_scheduler lr_scheduler_type",
        "warmup": "lr_warmup_fraction warmup_fraction warmup_ratio",
        "warmup_iters": "lr_warmup_iters lr_warmup_steps num_warmup_steps warmup_steps",
        "train_iters": (
            "iterations max_iters max_steps n_steps num_steps steps total_steps train_steps"
        ),
        "train_batch_size": "bs global_batch_size total_batch_size",
        "train_micro_batch_size_per_gpu": (
            "micro_batch_size per_device_batch_size per_device_train_batch_size"
        ),
        "gradient_accumulation_steps": "accumulation accumulation_steps grad_accum grad_acc",
        "gradient_clipping": "clip grad_clip gradient_clip max_grad_norm",
        "optimizer.params.betas": "beta1 beta2",
        "optimizer.params.eps": "adam_epsilon epsilon",
        "weight_decay": "wd",
        "precision": "dtype torch_dtype",
        "checkpoint_factor": "checkpoint_period checkpoint_interval save_every save_steps",
        "keep_last_n_checkpoints": "keep_last save_total_limit",
        "checkpoint_activations": "gradient_checkpointing remat",
        "eval_interval": "eval_every eval_steps evaluation_interval",
        "log_interval": "log_every logging_steps",
        "save": "checkpoint_dir out_dir output_dir save_dir",
        "load": "ckpt init_from resume_from resume_from_checkpoint",
        "data_path": "data dataset dataset_path",
        "seed": "random_seed",
        "model_parallel_size": "tensor_model_parallel_size tensor_parallel tensor_parallel_size tp",
        "pipe_parallel_size": "pipeline_model_parallel_size pipeline_parallel_size pp",
        "context_parallel_size": "context_parallel cp",
        "no_weight_tying": "untie_embeddings_and_output_weights",
        "gpt_j_residual": "parallel_attn parallel_block parallel_residual use_parallel_residual",
    }.items()
    for other in others.split()
}
"""A name elsewhere -> the key here."""
