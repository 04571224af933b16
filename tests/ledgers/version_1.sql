-- A ledger that asyncgen wrote when its ledger had version 1 (commit 615ff74), as `sqlite3 .dump` gives it: items in
-- every state, named by their ids after what befell them.
PRAGMA user_version = 1;
BEGIN TRANSACTION;
CREATE TABLE batch (
    id          INTEGER PRIMARY KEY,
    name        TEXT NOT NULL,
    realm       TEXT NOT NULL CHECK (realm IN ('runpod', 'sandbox')),
    created_at  REAL NOT NULL,
    UNIQUE (realm, name)
) STRICT;
INSERT INTO "batch" VALUES(1,'set','runpod',1.79541648052023077009e+09);
CREATE TABLE event (
    id       INTEGER PRIMARY KEY,
    item_id  INTEGER NOT NULL REFERENCES item (id),
    at       REAL NOT NULL,
    state    TEXT NOT NULL,
    detail   TEXT
) STRICT;
INSERT INTO "event" VALUES(1,1,1795416480.52267,'wanted',NULL);
INSERT INTO "event" VALUES(2,2,1.79541648053882312778e+09,'wanted',NULL);
INSERT INTO "event" VALUES(3,2,1.79541648054148483271e+09,'submitting',NULL);
INSERT INTO "event" VALUES(4,2,1.79541648054882836344e+09,'accepted',NULL);
INSERT INTO "event" VALUES(5,3,1.79541648055972075459e+09,'wanted',NULL);
INSERT INTO "event" VALUES(6,3,1.79541648056522345545e+09,'submitting',NULL);
INSERT INTO "event" VALUES(7,3,1.79541648056583881378e+09,'accepted',NULL);
INSERT INTO "event" VALUES(8,3,1.7954164805663893222e+09,'storing',NULL);
INSERT INTO "event" VALUES(9,4,1.79541648056884074217e+09,'wanted',NULL);
INSERT INTO "event" VALUES(10,4,1.79541648057289457323e+09,'submitting',NULL);
INSERT INTO "event" VALUES(11,4,1.79541648058153247837e+09,'accepted',NULL);
INSERT INTO "event" VALUES(12,4,1.7954164805997591018e+09,'storing',NULL);
INSERT INTO "event" VALUES(13,4,1.79541648060115456584e+09,'stored',NULL);
INSERT INTO "event" VALUES(14,5,1.79541648061612629889e+09,'wanted',NULL);
INSERT INTO "event" VALUES(15,5,1.79541648062907648088e+09,'submitting',NULL);
INSERT INTO "event" VALUES(16,5,1.79541648063863062858e+09,'accepted',NULL);
INSERT INTO "event" VALUES(17,5,1.79541648064990520478e+09,'failed','worker_error: no such node');
INSERT INTO "event" VALUES(18,6,1.79541648065588188174e+09,'wanted',NULL);
INSERT INTO "event" VALUES(19,6,1.79541648065949177746e+09,'failed','body_too_large: too large');
INSERT INTO "event" VALUES(20,7,1.79541648066589474676e+09,'wanted',NULL);
INSERT INTO "event" VALUES(21,7,1.79541648067552661897e+09,'submitting',NULL);
INSERT INTO "event" VALUES(22,7,1.79541648067887687689e+09,'failed','body_too_large: 413');
INSERT INTO "event" VALUES(23,8,1.79541648068218755726e+09,'wanted',NULL);
INSERT INTO "event" VALUES(24,8,1.79541648069150090215e+09,'submitting',NULL);
INSERT INTO "event" VALUES(25,8,1.7954164806955087185e+09,'accepted',NULL);
INSERT INTO "event" VALUES(26,8,1.79541648070601105686e+09,'given_up','out_of_memory: CUDA out of memory');
INSERT INTO "event" VALUES(27,9,1.79541648070913290981e+09,'wanted',NULL);
INSERT INTO "event" VALUES(28,9,1.79541648071437168121e+09,'submitting',NULL);
INSERT INTO "event" VALUES(29,9,1.79541648071536803247e+09,'accepted',NULL);
INSERT INTO "event" VALUES(30,9,1.79541648072301268579e+09,'lost','lost: it expired');
INSERT INTO "event" VALUES(31,10,1.79541648073093819621e+09,'wanted',NULL);
INSERT INTO "event" VALUES(32,10,1.79541648073820161819e+09,'submitting',NULL);
INSERT INTO "event" VALUES(33,10,1.79541648074511313434e+09,'accepted',NULL);
INSERT INTO "event" VALUES(34,10,1.7954164807474577427e+09,'cancelled','cancelled: taken back');
INSERT INTO "event" VALUES(35,11,1.79541648075189304353e+09,'wanted',NULL);
INSERT INTO "event" VALUES(36,11,1.79541648076425027847e+09,'submitting',NULL);
INSERT INTO "event" VALUES(37,11,1.79541648076746320717e+09,'unknown','unreachable: reset');
INSERT INTO "event" VALUES(38,12,1.7954164807698101997e+09,'wanted',NULL);
INSERT INTO "event" VALUES(39,12,1.79541648077459359169e+09,'submitting',NULL);
INSERT INTO "event" VALUES(40,12,1.79541648077959251411e+09,'accepted',NULL);
INSERT INTO "event" VALUES(41,12,1.79541648081575202946e+09,'wanted','out_of_memory: CUDA out of memory');
INSERT INTO "event" VALUES(42,12,1.79541648081947493556e+09,'submitting',NULL);
INSERT INTO "event" VALUES(43,12,1.79541648082506513596e+09,'accepted',NULL);
INSERT INTO "event" VALUES(44,12,1.79541648085093927386e+09,'storing',NULL);
INSERT INTO "event" VALUES(45,12,1.79541648086171841619e+09,'stored',NULL);
INSERT INTO "event" VALUES(46,13,1.7954164808819117546e+09,'wanted',NULL);
INSERT INTO "event" VALUES(47,13,1.7954164809296844006e+09,'submitting',NULL);
INSERT INTO "event" VALUES(48,13,1795416480.93054,'wanted','429');
INSERT INTO "event" VALUES(49,13,1795416480.93954,'submitting',NULL);
INSERT INTO "event" VALUES(50,13,1.79541648094241452215e+09,'accepted',NULL);
INSERT INTO "event" VALUES(51,14,1.79541648095275950427e+09,'wanted',NULL);
INSERT INTO "event" VALUES(52,14,1.79541648095546579359e+09,'submitting',NULL);
INSERT INTO "event" VALUES(53,14,1.79541648096261143678e+09,'unknown','unreachable: reset');
INSERT INTO "event" VALUES(54,14,1.79541648097916674612e+09,'wanted','resubmitted as told; it may be paid for twice');
INSERT INTO "event" VALUES(55,14,1.79541648098008084291e+09,'submitting',NULL);
INSERT INTO "event" VALUES(56,14,1.79541648098373365404e+09,'accepted',NULL);
INSERT INTO "event" VALUES(57,14,1.79541648099080681805e+09,'storing',NULL);
INSERT INTO "event" VALUES(58,14,1.79541648099798488618e+09,'stored',NULL);
INSERT INTO "event" VALUES(59,15,1.79541648099910759921e+09,'wanted',NULL);
INSERT INTO "event" VALUES(60,15,1.79541648102478599551e+09,'submitting',NULL);
INSERT INTO "event" VALUES(61,15,1.79541648102769899365e+09,'accepted',NULL);
INSERT INTO "event" VALUES(62,15,1.79541648103749394409e+09,'storing',NULL);
INSERT INTO "event" VALUES(63,15,1.79541648103967571258e+09,'stored',NULL);
INSERT INTO "event" VALUES(64,15,1.79541648104557037351e+09,'wanted','made again, as told');
INSERT INTO "event" VALUES(65,15,1.79541648106979155542e+09,'submitting',NULL);
INSERT INTO "event" VALUES(66,15,1.79541648110713553425e+09,'accepted',NULL);
INSERT INTO "event" VALUES(67,15,1.79541648111055159573e+09,'storing',NULL);
INSERT INTO "event" VALUES(68,15,1.79541648111210393906e+09,'stored',NULL);
INSERT INTO "event" VALUES(69,16,1.79541648111483192443e+09,'wanted',NULL);
INSERT INTO "event" VALUES(70,16,1.79541648111718130107e+09,'submitting',NULL);
INSERT INTO "event" VALUES(71,16,1.7954164811197795868e+09,'accepted',NULL);
INSERT INTO "event" VALUES(72,16,1.79541648112142276762e+09,'storing',NULL);
INSERT INTO "event" VALUES(73,16,1.79541648112538957597e+09,'accepted','the files were not in place');
INSERT INTO "event" VALUES(74,17,1.79541648113374662397e+09,'wanted',NULL);
INSERT INTO "event" VALUES(75,17,1.79541648113953399663e+09,'submitting',NULL);
INSERT INTO "event" VALUES(76,17,1.79541648116367292403e+09,'unknown','the process ended while the submission was in the air; whether it was accepted was never learned');
INSERT INTO "event" VALUES(77,18,1.79541648118983030316e+09,'wanted',NULL);
INSERT INTO "event" VALUES(78,18,1.79541648119371795655e+09,'submitting',NULL);
CREATE TABLE image (
    id          INTEGER PRIMARY KEY,
    item_id     INTEGER NOT NULL REFERENCES item (id),
    number      INTEGER NOT NULL,
    path        TEXT UNIQUE,
    sha256      TEXT NOT NULL,
    size_bytes  INTEGER NOT NULL,
    format      TEXT NOT NULL,
    width       INTEGER NOT NULL,
    height      INTEGER NOT NULL,
    state       TEXT NOT NULL CHECK (state IN ('storing', 'stored', 'superseded'))
) STRICT;
INSERT INTO "image" VALUES(1,3,0,'storing.png','0000000000000000000000000000000000000000000000000000000000000000',10,'png',8,8,'storing');
INSERT INTO "image" VALUES(2,4,0,'stored.png','0000000000000000000000000000000000000000000000000000000000000000',10,'png',8,8,'stored');
INSERT INTO "image" VALUES(3,12,0,'again.png','0000000000000000000000000000000000000000000000000000000000000000',10,'png',8,8,'stored');
INSERT INTO "image" VALUES(4,14,0,'resubmitted.png','0000000000000000000000000000000000000000000000000000000000000000',10,'png',8,8,'stored');
INSERT INTO "image" VALUES(5,15,0,'remade-1.png','0000000000000000000000000000000000000000000000000000000000000000',10,'png',8,8,'superseded');
INSERT INTO "image" VALUES(6,15,0,'remade-2.png','0000000000000000000000000000000000000000000000000000000000000000',10,'png',8,8,'stored');
CREATE TABLE item (
    id              INTEGER PRIMARY KEY,
    request_id      TEXT NOT NULL UNIQUE,
    batch_id        INTEGER NOT NULL REFERENCES batch (id),
    content_key     BLOB NOT NULL,
    occurrence      INTEGER NOT NULL,
    replica         INTEGER NOT NULL,
    said            TEXT NOT NULL,
    spec            TEXT NOT NULL,
    fingerprint     BLOB NOT NULL,
    style_id        TEXT,
    seed            TEXT NOT NULL,
    state           TEXT NOT NULL CHECK (state IN
                        ('wanted', 'submitting', 'accepted', 'storing', 'stored',
                         'failed', 'given_up', 'cancelled', 'lost', 'unknown')),
    state_at        REAL NOT NULL,
    attempts        INTEGER NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    endpoint        TEXT,
    job_id          TEXT,
    accepted_at     REAL,
    failure_class   TEXT,
    failure_code    TEXT,
    failure_message TEXT,
    UNIQUE (batch_id, content_key, occurrence),
    CHECK (state NOT IN ('accepted', 'storing', 'stored', 'lost') OR (endpoint IS NOT NULL AND job_id IS NOT NULL)),
    CHECK (state NOT IN ('submitting', 'unknown') OR endpoint IS NOT NULL),
    CHECK (state NOT IN ('failed', 'given_up', 'lost', 'unknown') OR failure_code IS NOT NULL)
) STRICT;
INSERT INTO "item" VALUES(1,'img_12cf8857',1,X'309943C28FCC89D805ACBE2F6681EED5',0,0,'{"height":64,"id":"wanted","prompt":"a fox, wanted","width":64}','{"batch_size":1,"flux_guidance":3.5,"height":64,"loras":[],"model":"flux1-dev-fp8","model_urls":[],"parameters":{},"prompt":"a fox, wanted","prompt_sent":"a fox, wanted","sampler_name":"euler","scheduler_name":"simple","steps":20,"style_id":null,"style_title":null,"width":64,"workflow":"normal_image_v4_workflow","workflow_digest":"21eb37e2cb50fe7240d42d169b6934cb"}',X'0EE101B2B12A2BDBD8D67A4352F509A5',NULL,'13769799722385980007','wanted',1795416480.52267,0,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "item" VALUES(2,'img_23a5ecc7',1,X'A8EE82E866084054EB011F5DAFAC4E9A',0,0,'{"height":64,"id":"accepted","prompt":"a fox, accepted","width":64}','{"batch_size":1,"flux_guidance":3.5,"height":64,"loras":[],"model":"flux1-dev-fp8","model_urls":[],"parameters":{},"prompt":"a fox, accepted","prompt_sent":"a fox, accepted","sampler_name":"euler","scheduler_name":"simple","steps":20,"style_id":null,"style_title":null,"width":64,"workflow":"normal_image_v4_workflow","workflow_digest":"21eb37e2cb50fe7240d42d169b6934cb"}',X'E6134A5E3352C3774995A5E13E135F7A',NULL,'11357847715891992671','accepted',1.79541648054882836344e+09,1,'https://api.example/v2/ep','job-accepted',1.79541648054882025721e+09,NULL,NULL,NULL);
INSERT INTO "item" VALUES(3,'img_73d1d534',1,X'5B3B769039C096A67F708681E9F2D28B',0,0,'{"height":64,"id":"storing","prompt":"a fox, storing","width":64}','{"batch_size":1,"flux_guidance":3.5,"height":64,"loras":[],"model":"flux1-dev-fp8","model_urls":[],"parameters":{},"prompt":"a fox, storing","prompt_sent":"a fox, storing","sampler_name":"euler","scheduler_name":"simple","steps":20,"style_id":null,"style_title":null,"width":64,"workflow":"normal_image_v4_workflow","workflow_digest":"21eb37e2cb50fe7240d42d169b6934cb"}',X'571FEE89C5DEA39DF67BBE75E9B1868F',NULL,'3271914541882790945','storing',1.7954164805663893222e+09,1,'https://api.example/v2/ep','job-storing',1.79541648056583380693e+09,NULL,NULL,NULL);
INSERT INTO "item" VALUES(4,'img_0f13abe0',1,X'C4AF8EA23ABB0AAE74D9C0ADE2B3990E',0,0,'{"height":64,"id":"stored","prompt":"a fox, stored","width":64}','{"batch_size":1,"flux_guidance":3.5,"height":64,"loras":[],"model":"flux1-dev-fp8","model_urls":[],"parameters":{},"prompt":"a fox, stored","prompt_sent":"a fox, stored","sampler_name":"euler","scheduler_name":"simple","steps":20,"style_id":null,"style_title":null,"width":64,"workflow":"normal_image_v4_workflow","workflow_digest":"21eb37e2cb50fe7240d42d169b6934cb"}',X'5AEC9391E24BBCA2CC22D12D453E2F25',NULL,'212908656853916307','stored',1.79541648060115456584e+09,1,'https://api.example/v2/ep','job-stored',1.7954164805815255642e+09,NULL,NULL,NULL);
INSERT INTO "item" VALUES(5,'img_df34b1aa',1,X'86DC3E048F381CC8729ED3E9B4EDD422',0,0,'{"height":64,"id":"failed","prompt":"a fox, failed","width":64}','{"batch_size":1,"flux_guidance":3.5,"height":64,"loras":[],"model":"flux1-dev-fp8","model_urls":[],"parameters":{},"prompt":"a fox, failed","prompt_sent":"a fox, failed","sampler_name":"euler","scheduler_name":"simple","steps":20,"style_id":null,"style_title":null,"width":64,"workflow":"normal_image_v4_workflow","workflow_digest":"21eb37e2cb50fe7240d42d169b6934cb"}',X'86A70B4271B4D9D44C452521B802F667',NULL,'5896065928564648407','failed',1.79541648064990520478e+09,1,'https://api.example/v2/ep','job-failed',1.79541648063862037659e+09,'item','worker_error','no such node');
INSERT INTO "item" VALUES(6,'img_45aa1340',1,X'0747F9AE6565E23B1F3A271CE0B521AC',0,0,'{"height":64,"id":"refused here","prompt":"a fox, refused here","width":64}','{"batch_size":1,"flux_guidance":3.5,"height":64,"loras":[],"model":"flux1-dev-fp8","model_urls":[],"parameters":{},"prompt":"a fox, refused here","prompt_sent":"a fox, refused here","sampler_name":"euler","scheduler_name":"simple","steps":20,"style_id":null,"style_title":null,"width":64,"workflow":"normal_image_v4_workflow","workflow_digest":"21eb37e2cb50fe7240d42d169b6934cb"}',X'79EB212099B0A1112E23778110E091E9',NULL,'4663705845855310983','failed',1.79541648065949177746e+09,0,NULL,NULL,NULL,'item','body_too_large','too large');
INSERT INTO "item" VALUES(7,'img_d7f19887',1,X'E7483EC94056FB0AEDB632958499788E',0,0,'{"height":64,"id":"rejected","prompt":"a fox, rejected","width":64}','{"batch_size":1,"flux_guidance":3.5,"height":64,"loras":[],"model":"flux1-dev-fp8","model_urls":[],"parameters":{},"prompt":"a fox, rejected","prompt_sent":"a fox, rejected","sampler_name":"euler","scheduler_name":"simple","steps":20,"style_id":null,"style_title":null,"width":64,"workflow":"normal_image_v4_workflow","workflow_digest":"21eb37e2cb50fe7240d42d169b6934cb"}',X'8E97E25D8DF424072223DCCD37F625CB',NULL,'518226130577843170','failed',1.79541648067887687689e+09,1,'https://api.example/v2/ep',NULL,NULL,'item','body_too_large','413');
INSERT INTO "item" VALUES(8,'img_52eeeb15',1,X'137F49A2808F0CA4F0932BBA049DFDE5',0,0,'{"height":64,"id":"given_up","prompt":"a fox, given_up","width":64}','{"batch_size":1,"flux_guidance":3.5,"height":64,"loras":[],"model":"flux1-dev-fp8","model_urls":[],"parameters":{},"prompt":"a fox, given_up","prompt_sent":"a fox, given_up","sampler_name":"euler","scheduler_name":"simple","steps":20,"style_id":null,"style_title":null,"width":64,"workflow":"normal_image_v4_workflow","workflow_digest":"21eb37e2cb50fe7240d42d169b6934cb"}',X'38262A4AD6A79C141DC1C2CB1090F0F5',NULL,'1059483700690551801','given_up',1.79541648070601105686e+09,1,'https://api.example/v2/ep','job-given-up',1.79541648069550085066e+09,'infrastructure','out_of_memory','CUDA out of memory');
INSERT INTO "item" VALUES(9,'img_0fc88f19',1,X'FF3130DDD540A5F5CF3E59C53ABEF5A1',0,0,'{"height":64,"id":"lost","prompt":"a fox, lost","width":64}','{"batch_size":1,"flux_guidance":3.5,"height":64,"loras":[],"model":"flux1-dev-fp8","model_urls":[],"parameters":{},"prompt":"a fox, lost","prompt_sent":"a fox, lost","sampler_name":"euler","scheduler_name":"simple","steps":20,"style_id":null,"style_title":null,"width":64,"workflow":"normal_image_v4_workflow","workflow_digest":"21eb37e2cb50fe7240d42d169b6934cb"}',X'E4D5E196E5E3EB3613FE7154DF1FF78A',NULL,'9102108281046055577','lost',1.79541648072301268579e+09,1,'https://api.example/v2/ep','job-lost',1.79541648071536207196e+09,'infrastructure','lost','it expired');
INSERT INTO "item" VALUES(10,'img_1de7321e',1,X'2B925B7E3C535EE5A3BA398378A8B9C2',0,0,'{"height":64,"id":"cancelled","prompt":"a fox, cancelled","width":64}','{"batch_size":1,"flux_guidance":3.5,"height":64,"loras":[],"model":"flux1-dev-fp8","model_urls":[],"parameters":{},"prompt":"a fox, cancelled","prompt_sent":"a fox, cancelled","sampler_name":"euler","scheduler_name":"simple","steps":20,"style_id":null,"style_title":null,"width":64,"workflow":"normal_image_v4_workflow","workflow_digest":"21eb37e2cb50fe7240d42d169b6934cb"}',X'2F2824F90691D1DF5C510841CEE30E95',NULL,'10608083892984035540','cancelled',1.7954164807474577427e+09,1,'https://api.example/v2/ep','job-cancelled',1.79541648074510359761e+09,'item','cancelled','taken back');
INSERT INTO "item" VALUES(11,'img_2ec7969d',1,X'B8CBDBF0EC6BA49D4FEE058EF4D97A37',0,0,'{"height":64,"id":"unknown","prompt":"a fox, unknown","width":64}','{"batch_size":1,"flux_guidance":3.5,"height":64,"loras":[],"model":"flux1-dev-fp8","model_urls":[],"parameters":{},"prompt":"a fox, unknown","prompt_sent":"a fox, unknown","sampler_name":"euler","scheduler_name":"simple","steps":20,"style_id":null,"style_title":null,"width":64,"workflow":"normal_image_v4_workflow","workflow_digest":"21eb37e2cb50fe7240d42d169b6934cb"}',X'3D25B73082668CB1F1C39053FCA8BDC3',NULL,'10906303074606075859','unknown',1.79541648076746320717e+09,1,'https://api.example/v2/ep',NULL,NULL,'transport','unreachable','reset');
INSERT INTO "item" VALUES(12,'img_420ef1e3',1,X'009CC60B71F400D9D9CEF8F5E20A6B88',0,0,'{"height":64,"id":"bought again","prompt":"a fox, bought again","width":64}','{"batch_size":1,"flux_guidance":3.5,"height":64,"loras":[],"model":"flux1-dev-fp8","model_urls":[],"parameters":{},"prompt":"a fox, bought again","prompt_sent":"a fox, bought again","sampler_name":"euler","scheduler_name":"simple","steps":20,"style_id":null,"style_title":null,"width":64,"workflow":"normal_image_v4_workflow","workflow_digest":"21eb37e2cb50fe7240d42d169b6934cb"}',X'1DCE4A581D0315662928C7F2022E6B6A',NULL,'4066077914761880734','stored',1.79541648086171841619e+09,2,'https://api.example/v2/ep','job-again-2',1.79541648082505774495e+09,NULL,NULL,NULL);
INSERT INTO "item" VALUES(13,'img_c2d76b78',1,X'29B8CAC95A21FB7E75F0DB1A8B8C6EB2',0,0,'{"height":64,"id":"busy","prompt":"a fox, busy","width":64}','{"batch_size":1,"flux_guidance":3.5,"height":64,"loras":[],"model":"flux1-dev-fp8","model_urls":[],"parameters":{},"prompt":"a fox, busy","prompt_sent":"a fox, busy","sampler_name":"euler","scheduler_name":"simple","steps":20,"style_id":null,"style_title":null,"width":64,"workflow":"normal_image_v4_workflow","workflow_digest":"21eb37e2cb50fe7240d42d169b6934cb"}',X'F1372D3F6F580B892E386B993BD881B4',NULL,'3317984593004394086','accepted',1.79541648094241452215e+09,1,'https://api.example/v2/ep','job-busy',1.79541648094240617744e+09,NULL,NULL,NULL);
INSERT INTO "item" VALUES(14,'img_daf7d0f6',1,X'E6170E5AADFAF5F4680373AFCDE63EB3',0,0,'{"height":64,"id":"resubmitted","prompt":"a fox, resubmitted","width":64}','{"batch_size":1,"flux_guidance":3.5,"height":64,"loras":[],"model":"flux1-dev-fp8","model_urls":[],"parameters":{},"prompt":"a fox, resubmitted","prompt_sent":"a fox, resubmitted","sampler_name":"euler","scheduler_name":"simple","steps":20,"style_id":null,"style_title":null,"width":64,"workflow":"normal_image_v4_workflow","workflow_digest":"21eb37e2cb50fe7240d42d169b6934cb"}',X'D3114C81C4D023988745E756621C2DAB',NULL,'4311858186701366856','stored',1.79541648099798488618e+09,2,'https://api.example/v2/ep','job-resubmitted',1.79541648098372554781e+09,NULL,NULL,NULL);
INSERT INTO "item" VALUES(15,'img_f6979346',1,X'00B7B9C0289DAA700E0D1D142B943B34',0,0,'{"height":64,"id":"remade","prompt":"a fox, remade","width":64}','{"batch_size":1,"flux_guidance":3.5,"height":64,"loras":[],"model":"flux1-dev-fp8","model_urls":[],"parameters":{},"prompt":"a fox, remade","prompt_sent":"a fox, remade","sampler_name":"euler","scheduler_name":"simple","steps":20,"style_id":null,"style_title":null,"width":64,"workflow":"normal_image_v4_workflow","workflow_digest":"21eb37e2cb50fe7240d42d169b6934cb"}',X'DA64B09A9B35ABAA8C73BDA115CDA066',NULL,'11349477226809015936','stored',1.79541648111210393906e+09,1,'https://api.example/v2/ep','job-remade-2',1.79541648110712575908e+09,NULL,NULL,NULL);
INSERT INTO "item" VALUES(16,'img_30c0e744',1,X'AA8DDC8B500A83FD758D3282A9A35670',0,0,'{"height":64,"id":"not stored","prompt":"a fox, not stored","width":64}','{"batch_size":1,"flux_guidance":3.5,"height":64,"loras":[],"model":"flux1-dev-fp8","model_urls":[],"parameters":{},"prompt":"a fox, not stored","prompt_sent":"a fox, not stored","sampler_name":"euler","scheduler_name":"simple","steps":20,"style_id":null,"style_title":null,"width":64,"workflow":"normal_image_v4_workflow","workflow_digest":"21eb37e2cb50fe7240d42d169b6934cb"}',X'BF893FBFFDFAF9EEC8B3F402AD981B8F',NULL,'1258856224713764562','accepted',1.79541648112538957597e+09,1,'https://api.example/v2/ep','job-not-stored',1.79541648111976933485e+09,NULL,NULL,NULL);
INSERT INTO "item" VALUES(17,'img_c0ef26c5',1,X'7903720CC7606B4B043233FF827AE8A2',0,0,'{"height":64,"id":"died","prompt":"a fox, died","width":64}','{"batch_size":1,"flux_guidance":3.5,"height":64,"loras":[],"model":"flux1-dev-fp8","model_urls":[],"parameters":{},"prompt":"a fox, died","prompt_sent":"a fox, died","sampler_name":"euler","scheduler_name":"simple","steps":20,"style_id":null,"style_title":null,"width":64,"workflow":"normal_image_v4_workflow","workflow_digest":"21eb37e2cb50fe7240d42d169b6934cb"}',X'CDAD6D40440A1CEC0D7B75E84620D6C5',NULL,'3833599246190393074','unknown',1.79541648116367292403e+09,1,'https://api.example/v2/ep',NULL,NULL,'transport','unreachable','the process ended while the submission was in the air; whether it was accepted was never learned');
INSERT INTO "item" VALUES(18,'img_28e2da7e',1,X'2C760F4AAF366E8F51F78E99D3B2286B',0,0,'{"height":64,"id":"in the air","prompt":"a fox, in the air","width":64}','{"batch_size":1,"flux_guidance":3.5,"height":64,"loras":[],"model":"flux1-dev-fp8","model_urls":[],"parameters":{},"prompt":"a fox, in the air","prompt_sent":"a fox, in the air","sampler_name":"euler","scheduler_name":"simple","steps":20,"style_id":null,"style_title":null,"width":64,"workflow":"normal_image_v4_workflow","workflow_digest":"21eb37e2cb50fe7240d42d169b6934cb"}',X'536F502D705668A1FEC3618E21A27739',NULL,'8686715205258859994','submitting',1.79541648119371795655e+09,1,'https://api.example/v2/ep',NULL,NULL,NULL,NULL,NULL);
CREATE TABLE job (
    id            INTEGER PRIMARY KEY,
    item_id       INTEGER NOT NULL REFERENCES item (id),
    attempt       INTEGER NOT NULL,
    endpoint      TEXT NOT NULL,
    job_id        TEXT NOT NULL,
    accepted_at   REAL NOT NULL,
    ended_at      REAL,
    outcome       TEXT,
    delay_ms      INTEGER,
    execution_ms  INTEGER,
    worker_id     TEXT
) STRICT;
INSERT INTO "job" VALUES(1,2,1,'https://api.example/v2/ep','job-accepted',1.79541648054882025721e+09,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "job" VALUES(2,3,1,'https://api.example/v2/ep','job-storing',1.79541648056583380693e+09,1.79541648056653904913e+09,'completed',120,4700,'w1');
INSERT INTO "job" VALUES(3,4,1,'https://api.example/v2/ep','job-stored',1.7954164805815255642e+09,1.7954164805999555588e+09,'completed',120,4700,'w1');
INSERT INTO "job" VALUES(4,5,1,'https://api.example/v2/ep','job-failed',1.79541648063862037659e+09,1.79541648064990210526e+09,'worker_error',10,300,'w1');
INSERT INTO "job" VALUES(5,8,1,'https://api.example/v2/ep','job-given-up',1.79541648069550085066e+09,1.79541648070600771904e+09,'out_of_memory',10,300,'w1');
INSERT INTO "job" VALUES(6,9,1,'https://api.example/v2/ep','job-lost',1.79541648071536207196e+09,1.79541648072300791738e+09,'lost',NULL,NULL,NULL);
INSERT INTO "job" VALUES(7,10,1,'https://api.example/v2/ep','job-cancelled',1.79541648074510359761e+09,1.79541648074745464327e+09,'cancelled',NULL,NULL,NULL);
INSERT INTO "job" VALUES(8,12,1,'https://api.example/v2/ep','job-again-1',1.79541648077958440783e+09,1.79541648081574845311e+09,'out_of_memory',10,300,'w1');
INSERT INTO "job" VALUES(9,12,2,'https://api.example/v2/ep','job-again-2',1.79541648082505774495e+09,1.79541648085439419749e+09,'completed',120,4700,'w1');
INSERT INTO "job" VALUES(10,13,1,'https://api.example/v2/ep','job-busy',1.79541648094240617744e+09,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "job" VALUES(11,14,2,'https://api.example/v2/ep','job-resubmitted',1.79541648098372554781e+09,1.79541648099104094501e+09,'completed',120,4700,'w1');
INSERT INTO "job" VALUES(12,15,1,'https://api.example/v2/ep','job-remade-1',1.79541648102769255635e+09,1.79541648103768515585e+09,'completed',120,4700,'w1');
INSERT INTO "job" VALUES(13,15,1,'https://api.example/v2/ep','job-remade-2',1.79541648110712575908e+09,1.79541648111075639732e+09,'completed',120,4700,'w1');
INSERT INTO "job" VALUES(14,16,1,'https://api.example/v2/ep','job-not-stored',1.79541648111976933485e+09,1.79541648112157559398e+09,'completed',120,4700,'w1');
CREATE TABLE manifest (
    only_row     INTEGER PRIMARY KEY CHECK (only_row = 1),
    event_id     INTEGER NOT NULL,
    size_bytes   INTEGER NOT NULL,
    output_root  TEXT
) STRICT;
INSERT INTO "manifest" VALUES(1,0,0,'.');
CREATE TABLE run (
    id          INTEGER PRIMARY KEY,
    batch_id    INTEGER NOT NULL REFERENCES batch (id),
    started_at  REAL NOT NULL,
    ended_at    REAL,
    outcome     TEXT
) STRICT;
INSERT INTO "run" VALUES(1,1,1.79541648052105951311e+09,1.79541648116367292403e+09,'died');
INSERT INTO "run" VALUES(2,1,1.79541648118886494633e+09,NULL,NULL);
CREATE INDEX item_by_state ON item (batch_id, state);
CREATE INDEX item_by_style ON item (style_id, state_at) WHERE state = 'stored';
CREATE INDEX job_by_item ON job (item_id);
CREATE INDEX image_by_item ON image (item_id);
CREATE INDEX event_by_item ON event (item_id);
COMMIT;
